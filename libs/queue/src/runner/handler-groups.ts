import type { HandlerGroup } from '../claim/feeds.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { Batches } from './batches.js';
import type { Slots } from './slots.js';

/**
 * Which handlers are claimed for together: all without a limit, all transactional ones, which share the connections that
 * they may have, and each one with a limit or batches of its own.
 */
export function handlerGroups(handlers: readonly RegisteredHandler[], slots: Slots, batches: Batches): HandlerGroup[] {
  const transactional = (handler: RegisteredHandler): boolean => handler.isolation !== null && slots.limitsTransactions;
  const isSingle = ({ concurrency, batch }: RegisteredHandler): boolean => concurrency !== null || batch !== null;
  const others = handlers.filter((handler) => !isSingle(handler));
  const sharing = others.filter(transactional);
  const unlimited = others.filter((handler) => !transactional(handler));
  return [
    ...(unlimited.length === 0 ? [] : [{ names: unlimited.flatMap(namesOf), channel: null, capacity: () => Infinity }]),
    ...(sharing.length === 0 ? [] : [transactionGroup(sharing, slots)]),
    ...handlers.filter(isSingle).map((handler): HandlerGroup => {
      const load = batches.of(handler);
      const group = { names: namesOf(handler), channel: handler.channel, capacity: () => slots.room(handler) };
      if (load !== undefined) return { ...group, batch: () => load.sizer.size };
      return transactional(handler) ? { ...group, ...shared(slots) } : group;
    }),
  ];
}

/** What groups have in common whose runs are transactions. */
const shared = (slots: Slots): Pick<HandlerGroup, 'sharedRoom' | 'startable'> => ({
  sharedRoom: 'transactions',
  startable: () => slots.startableTransactions,
});

function transactionGroup(handlers: readonly RegisteredHandler[], slots: Slots): HandlerGroup {
  const [channel, ...more] = new Set(handlers.map((handler) => handler.channel));
  return {
    names: handlers.flatMap(namesOf),
    channel: more.length === 0 ? channel! : null,
    capacity: () => slots.roomForTransactions,
    ...shared(slots),
  };
}

function namesOf({ name, formerNames }: RegisteredHandler): string[] {
  return [name, ...formerNames];
}
