/** About 100 bytes of JSON. */
export interface Payload {
  readonly n: number;
  readonly to: string;
  readonly subject: string;
}

export function payloadOf(n: number): Payload {
  return { n, to: 'somebody@example.org', subject: 'A letter of about a hundred bytes, as jobs are' };
}

export function payloadsFrom(first: number, count: number): Payload[] {
  return Array.from({ length: count }, (_, index) => payloadOf(first + index));
}
