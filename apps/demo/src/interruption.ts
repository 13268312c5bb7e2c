/**
 * Aborts at the first Ctrl-C or SIGTERM; later ones change nothing, since a terminal and npm both pass the signal on.
 * In place of `app.enableShutdownHooks()`, because the demo's own PostgreSQL has to outlive the application: first the
 * running jobs end, then the pool closes, then the server stops.
 */
export const interruption: AbortSignal = listen();

function listen(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => controller.abort(signal));
  return controller.signal;
}
