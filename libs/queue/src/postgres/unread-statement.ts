/** The part of pg's connection that says what the server has prepared. */
export interface PreparedNames {
  /** Texts by their names. */
  readonly parsedStatements: Record<string, string | undefined>;
  /** Those of which the server's answer is not there yet. */
  readonly submittedNamedStatements?: Record<string, string | undefined>;
}

/** `Execute` of the unnamed portal, all rows. */
const EXECUTE = Buffer.from([0x45, 0, 0, 0, 9, 0, 0, 0, 0, 0]);

/** Behind the last statement of several that the server answers together. */
export const SYNC = Buffer.from([0x53, 0, 0, 0, 4]);

/** Of statements without values, which are the same each time. */
const bound = new Map<string, Buffer>();

/**
 * A statement of ours whose rows nobody reads, as the bytes of the protocol: it costs a third of a query of pg, which asks
 * the server for a description and makes a result of the answer.
 */
export class UnreadStatement {
  command: string | undefined;

  constructor(
    readonly name: string | undefined,
    readonly text: string,
    private readonly values: readonly unknown[] = [],
  ) {}

  /** Its messages, without a Sync. */
  addTo(messages: Buffer[], { parsedStatements, submittedNamedStatements }: PreparedNames): void {
    const { name = '', text } = this;
    const known = name !== '' && (parsedStatements[name] ?? submittedNamedStatements?.[name]) !== undefined;
    if (!known) {
      messages.push(parse(name, text));
      if (name !== '' && submittedNamedStatements) submittedNamedStatements[name] = text;
    }
    messages.push(this.values.length === 0 ? boundWithoutValues(name) : bind(name, this.values), EXECUTE);
  }
}

function boundWithoutValues(name: string): Buffer {
  const known = bound.get(name);
  if (known !== undefined) return known;
  const made = bind(name, []);
  bound.set(name, made);
  return made;
}

function parse(name: string, text: string): Buffer {
  const bytes = Buffer.from(`P____${name}\0${text}\0__`);
  bytes.writeInt32BE(bytes.length - 1, 1);
  bytes.writeInt16BE(0, bytes.length - 2);
  return bytes;
}

/** To the unnamed portal. Values and rows are text. */
function bind(name: string, values: readonly unknown[]): Buffer {
  const texts = values.map(textOf);
  const lengths = texts.map((text) => (text === null ? 0 : Buffer.byteLength(text)));
  const head = Buffer.byteLength(name) + 7;
  const bytes = Buffer.allocUnsafe(lengths.reduce((sum, length) => sum + 4 + length, head + 6));
  bytes.writeUInt8(0x42, 0);
  bytes.writeInt32BE(bytes.length - 1, 1);
  bytes.write(`\0${name}\0`, 5);
  bytes.writeInt16BE(0, head);
  bytes.writeInt16BE(texts.length, head + 2);
  let at = head + 4;
  texts.forEach((text, index) => {
    at = bytes.writeInt32BE(text === null ? -1 : lengths[index]!, at);
    if (text !== null) at += bytes.write(text, at);
  });
  bytes.writeInt16BE(0, at);
  return bytes;
}

function textOf(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  if (typeof value === 'string') return value;
  return Array.isArray(value) ? `{${value.map(elementOf).join()}}` : JSON.stringify(value);
}

function elementOf(value: unknown): string {
  const text = textOf(value);
  return text === null ? 'NULL' : `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
}
