// The import, on the console: begins or goes on, shows how far it is, and ends with a summary. `npm start`.
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import { recordsWanted } from './environment.js';
import { postgres } from './database/postgres.js';
import { countRecords, FILES } from './import/gazetteer.js';
import { Imports } from './import/imports.js';
import { interruption } from './interruption.js';
import { positions } from './progress/progress-bar.js';
import { Progress } from './progress/progress.js';
import { Reporter } from './progress/reporter.js';
import { Screen, ScreenLogger } from './progress/screen.js';

const screen = new Screen(process.stdout);
if ('dir' in postgres) screen.print(`PostgreSQL is at ${postgres.url}, its data in ${postgres.dir}`);
for (const file of FILES) countRecords(file); // reads the files before jobs run: parsing 17 MB blocks the event loop
const app = await NestFactory.createApplicationContext(AppModule, { logger: new ScreenLogger(screen) });
try {
  const imports = app.get(Imports);
  const { run, isNew } = await imports.begin(recordsWanted());
  if (!isNew) await imports.countStart(run);
  if (isNew) screen.print(`Import ${run.id} begins.`);
  else screen.print(`Import ${run.id} was not finished and goes on: ${positions(await app.get(Progress).files())}.`);
  const finished = await app.get(Reporter).follow(run.id, screen, interruption);
  if (interruption.aborted)
    screen.print('Stopping. The files stop at their next checkpoint; the next start goes on from there.');
  else if (!finished) screen.print('Another process has begun a later import.');
} finally {
  await app.close();
  await postgres.stop();
}
