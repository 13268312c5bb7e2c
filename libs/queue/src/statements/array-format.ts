/** Numbers of the element types in `pg_type`. */
const INTEGER = 23;
const TEXT = 25;
const BYTEA = 17;

const HEADER_BYTES = 20;
const LENGTH_BYTES = 4;
const NULL_LENGTH = -1;

/** How arrays are written as parameters. */
export interface ArrayFormat {
  texts(values: readonly (string | null)[]): unknown;
  bytes(values: readonly (Buffer | null)[]): unknown;
  integers(values: readonly number[]): unknown;
  /** Bytes that stand in no array. */
  alone(bytes: Buffer | null): unknown;
}

/**
 * As the server reads them with the least work: nothing is quoted and nothing is looked for. pg sends a Buffer in that
 * format as it stands.
 *
 * @see src/backend/utils/adt/arrayfuncs.c of PostgreSQL, `array_recv`
 */
export const BINARY_ARRAYS: ArrayFormat = {
  texts: (values) => {
    let bytes = 0;
    for (const text of values) if (text !== null) bytes += Buffer.byteLength(text);
    const array = arrayOf(TEXT, values.length, bytes);
    let at = HEADER_BYTES;
    for (const text of values) {
      const length = text === null ? NULL_LENGTH : array.write(text, at + LENGTH_BYTES);
      at = array.writeInt32BE(length, at) + Math.max(length, 0);
    }
    return array;
  },

  bytes: (values) => {
    const bytes = values.reduce((sum, value) => sum + (value?.length ?? 0), 0);
    const array = arrayOf(BYTEA, values.length, bytes);
    let at = HEADER_BYTES;
    for (const value of values) {
      at = array.writeInt32BE(value === null ? NULL_LENGTH : value.length, at);
      at += value?.copy(array, at) ?? 0;
    }
    return array;
  },

  integers: (values) => {
    const array = arrayOf(INTEGER, values.length, LENGTH_BYTES * values.length);
    let at = HEADER_BYTES;
    for (const value of values) at = array.writeInt32BE(value, array.writeInt32BE(LENGTH_BYTES, at));
    return array;
  },

  alone: (bytes) => bytes,
};

/** Header of an array of one dimension, and room for its elements: each is a length, and so many bytes. */
function arrayOf(type: number, length: number, bytes: number): Buffer {
  const array = Buffer.allocUnsafe(HEADER_BYTES + length * LENGTH_BYTES + bytes);
  const [dimensions, hasNulls, firstIndex] = [1, 0, 1];
  for (const [index, field] of [dimensions, hasNulls, type, length, firstIndex].entries()) {
    array.writeInt32BE(field, index * LENGTH_BYTES);
  }
  return array;
}

/** As literals, for clients that send text only. */
export const TEXT_ARRAYS: ArrayFormat = {
  texts: (values) => literal(values.map((text) => (text === null ? null : quoted(text)))),
  bytes: (values) => literal(values.map((bytes) => (bytes === null ? null : quoted(hex(bytes))))),
  integers: literal,
  alone: (bytes) => (bytes === null ? null : hex(bytes)),
};

function literal(elements: readonly (string | number | null)[]): string {
  return `{${elements.map((element) => element ?? 'NULL').join()}}`;
}

const quoted = (text: string): string => `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`;

const hex = (bytes: Buffer): string => String.raw`\x${bytes.toString('hex')}`;
