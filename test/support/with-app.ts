import { startApp, type TestApp, type TestAppOptions } from './app.js';

/** Boots an application, works with it, and closes it whatever came of it. */
export async function withApp<T>(options: TestAppOptions, work: (app: TestApp) => Promise<T>): Promise<T> {
  const app = await startApp(options);
  try {
    return await work(app);
  } finally {
    await app.close();
  }
}
