export default async function globalTeardown() {
  /** @type {{ stopTestPostgres?: () => Promise<void> }} */
  const { stopTestPostgres } = Object.assign({}, globalThis);
  await stopTestPostgres?.();
}
