// The same application behind HTTP. `npm run start:http`, then POST /imports, GET / and POST /sign-up.
import { once } from 'node:events';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import { postgres } from './database/postgres.js';
import { portWanted } from './environment.js';
import { interruption } from './interruption.js';

const app = await NestFactory.create(AppModule);
try {
  await app.listen(portWanted(), '127.0.0.1');
  console.log(`Listening on ${await app.getUrl()}: POST /imports, GET /, POST /sign-up`);
  if (!interruption.aborted) await once(interruption, 'abort');
} finally {
  await app.close();
  await postgres.stop();
}
