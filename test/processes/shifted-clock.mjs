// Preloaded by NODE_OPTIONS=--import, so that it holds in every thread: a process whose clock goes wrong by CLOCK_SHIFT_MS.
// Only what JavaScript calls the time is shifted; the monotonic clock and timers go on as they are.
const RealDate = Date;
const now = () => RealDate.now() + Number(process.env.CLOCK_SHIFT_MS ?? 0);

const ShiftedDate = new Proxy(RealDate, {
  construct: (target, given, newTarget) => Reflect.construct(target, given.length === 0 ? [now()] : given, newTarget),
  get: (target, name) => (name === 'now' ? now : Reflect.get(target, name)),
});

// Not by assignment, which the compiler would take for a declaration of `Date` in the whole project.
Reflect.set(globalThis, 'Date', ShiftedDate);
