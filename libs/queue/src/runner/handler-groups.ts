import type { HandlerGroup } from '../claim/feeds.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { Batches } from './batches.js';
import type { Slots } from './slots.js';

/** All handlers without a limit or batches of their own are claimed for together, each other one by itself. */
export function handlerGroups(handlers: readonly RegisteredHandler[], slots: Slots, batches: Batches): HandlerGroup[] {
  const shared = handlers.filter(isShared).flatMap(namesOf);
  const apart = handlers
    .filter((handler) => !isShared(handler))
    .map((handler): HandlerGroup => {
      const load = batches.of(handler);
      const group = { names: namesOf(handler), channel: handler.channel, capacity: () => slots.room(handler) };
      return load === undefined ? group : { ...group, batch: () => load.sizer.size };
    });
  return shared.length === 0 ? apart : [{ names: shared, channel: null, capacity: () => Infinity }, ...apart];
}

const isShared = ({ concurrency, batch }: RegisteredHandler): boolean => concurrency === null && batch === null;

function namesOf({ name, formerNames }: RegisteredHandler): string[] {
  return [name, ...formerNames];
}
