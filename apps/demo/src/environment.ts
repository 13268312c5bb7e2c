/** DEMO_RECORDS: import so many records of each file only, from the first one on. Default all. */
export function recordsWanted(): number | undefined {
  return integerOf('DEMO_RECORDS', 1, 10_000_000);
}

/** PORT of the HTTP application. */
export function portWanted(): number {
  return integerOf('PORT', 0, 65_535) ?? 3000;
}

function integerOf(name: string, min: number, max: number): number | undefined {
  const text = process.env[name];
  if (text === undefined || text === '') return undefined;
  const value = Number(text);
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new Error(`${name} is "${text}". Give a whole number from ${min} to ${max}.`);
}
