import type { StandardSchemaV1 } from '@standard-schema/spec';
import { PayloadInvalidError } from './errors.js';

/**
 * What a schema makes of a payload: its output, with defaults and transformations.
 *
 * @throws {PayloadInvalidError} listing every issue with its path
 */
export async function validatePayload(schema: StandardSchemaV1, jobName: string, payload: unknown): Promise<unknown> {
  const result = await schema['~standard'].validate(payload);
  if (result.issues === undefined) return result.value;
  throw new PayloadInvalidError(jobName, result.issues.map(issueText));
}

function issueText({ message, path }: StandardSchemaV1.Issue): string {
  const place = (path ?? []).map((part) => String(typeof part === 'object' ? part.key : part)).join('.');
  return place === '' ? message : `${place}: ${message}`;
}
