import net from 'node:net';

export interface SilencingProxy {
  /** The database, reached through the proxy. */
  readonly url: string;
  /** How many notifications it has kept back. */
  swallowed(): number;
  close(): Promise<void>;
}

const NOTIFICATION = 'A'.charCodeAt(0);
const HEADER_BYTES = 5; // type, then a length that counts itself

/** Passes a connection to Postgres through, but no notification: as a pooler in transaction mode does. */
export async function silencingProxy(databaseUrl: string): Promise<SilencingProxy> {
  const target = new URL(databaseUrl);
  const sockets = new Set<net.Socket>();
  let swallowed = 0;

  const server = net.createServer((client) => {
    const postgres = net.connect(Number(target.port), target.hostname);
    for (const socket of [client, postgres]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => [client, postgres].forEach((either) => either.destroy()));
    }
    client.pipe(postgres);
    let pending: Buffer = Buffer.alloc(0);
    postgres.on('data', (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= HEADER_BYTES) {
        const end = 1 + pending.readUInt32BE(1);
        if (pending.length < end) return;
        if (pending[0] === NOTIFICATION) swallowed += 1;
        else client.write(pending.subarray(0, end));
        pending = pending.subarray(end);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as net.AddressInfo).port);
  return {
    url: url.href,
    swallowed: () => swallowed,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
