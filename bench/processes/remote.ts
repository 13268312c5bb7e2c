import type { ChildProcess } from 'node:child_process';

/** An object that lives in another process: its methods, each of which answers a promise. */
export type Remote<T> = {
  readonly [Method in keyof T as T[Method] extends (...args: never[]) => unknown ? Method : never]: T[Method] extends (
    ...args: infer Args
  ) => infer Answer
    ? (...args: Args) => Promise<Awaited<Answer>>
    : never;
};

interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: unknown[];
}

interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** What a process tells without being asked. */
export interface Told {
  readonly told: string;
  readonly value: number;
}

/** In the process that has the object: does what the other one asks for. */
export function serve(target: object): void {
  const methods = target as Record<string, (...args: unknown[]) => unknown>;
  const answer = async ({ id, method, args }: Call): Promise<Answer> => {
    try {
      return { id, value: await methods[method]!(...args) };
    } catch (error) {
      return { id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    }
  };
  process.on('message', (call: Call) => void answer(call).then((given) => process.send!(given)));
}

/** In the process that asks. */
export function remoteOf<T>(child: ChildProcess, onTold: (told: Told) => void): Remote<T> {
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  let lastId = 0;
  child.on('message', (message: Answer | Told) => {
    if ('told' in message) return onTold(message);
    const call = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error === undefined) call?.resolve(message.value);
    else call?.reject(new Error(message.error));
  });
  child.on('exit', (code, signal) => {
    for (const { reject } of waiting.values()) reject(new Error(`A process of the bench ended: ${signal ?? code}.`));
    waiting.clear();
  });
  const call = (method: string, args: unknown[]): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const id = ++lastId;
      waiting.set(id, { resolve, reject });
      child.send({ id, method, args } satisfies Call, (error) => error && reject(error));
    });
  return new Proxy({} as Remote<T>, {
    get: (_, method) => (method === 'then' ? undefined : (...args: unknown[]) => call(String(method), args)),
  });
}
