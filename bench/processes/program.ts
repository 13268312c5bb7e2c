// A process of one system: `bench/processes/start.ts` starts it, and asks it for what `player.ts` can do.
import { SYSTEMS } from '../systems/index.js';
import { Player } from './player.js';
import { serve } from './remote.js';

const entry = SYSTEMS.find(({ name }) => name === process.env.BENCH_SYSTEM)!;
process.on('disconnect', () => process.exit()); // closed, or the one that measures has died
serve(new Player(await entry.load()));
process.send!({ told: 'ready', value: 0 });
