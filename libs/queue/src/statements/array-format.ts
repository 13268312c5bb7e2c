/** Numbers of the element types in `pg_type`. */
const INTEGER = 23;
const TEXT = 25;
const BYTEA = 17;

const HEADER_BYTES = 20;
const LENGTH_BYTES = 4;
const NULL_LENGTH = -1;

/**
 * Arrays as the server reads them with the least work: its binary format, in which nothing is quoted and nothing is looked
 * for. pg sends a Buffer in that format as it stands.
 *
 * @see src/backend/utils/adt/arrayfuncs.c of PostgreSQL, `array_recv`
 */
export function textArray(texts: readonly (string | null)[]): Buffer {
  let bytes = 0;
  for (const text of texts) if (text !== null) bytes += Buffer.byteLength(text);
  const array = arrayOf(TEXT, texts.length, bytes);
  let at = HEADER_BYTES;
  for (const text of texts) {
    const length = text === null ? NULL_LENGTH : array.write(text, at + LENGTH_BYTES);
    at = array.writeInt32BE(length, at) + Math.max(length, 0);
  }
  return array;
}

export function bytesArray(values: readonly (Buffer | null)[]): Buffer {
  const bytes = values.reduce((sum, value) => sum + (value?.length ?? 0), 0);
  const array = arrayOf(BYTEA, values.length, bytes);
  let at = HEADER_BYTES;
  for (const value of values) {
    at = array.writeInt32BE(value === null ? NULL_LENGTH : value.length, at);
    at += value?.copy(array, at) ?? 0;
  }
  return array;
}

export function integerArray(numbers: readonly number[]): Buffer {
  const array = arrayOf(INTEGER, numbers.length, LENGTH_BYTES * numbers.length);
  let at = HEADER_BYTES;
  for (const number of numbers) at = array.writeInt32BE(number, array.writeInt32BE(LENGTH_BYTES, at));
  return array;
}

/** Header of an array of one dimension, and room for its elements: each is a length, and so many bytes. */
function arrayOf(type: number, length: number, bytes: number): Buffer {
  const array = Buffer.allocUnsafe(HEADER_BYTES + length * LENGTH_BYTES + bytes);
  const [dimensions, hasNulls, firstIndex] = [1, 0, 1];
  for (const [index, field] of [dimensions, hasNulls, type, length, firstIndex].entries()) {
    array.writeInt32BE(field, index * LENGTH_BYTES);
  }
  return array;
}
