/** The part of @nestjs/schedule's SchedulerRegistry that we use. */
export interface TimeoutRegistry {
  addTimeout(name: string, timer: unknown): void;
  deleteTimeout(name: string): void;
}

/**
 * Shows loops by name in the registry of @nestjs/schedule. For show only: what stands there is a timer that does nothing,
 * so that whoever clears the registry, as that package does in the middle of our shutdown, ends no loop of ours.
 */
export class LoopBoard {
  private readonly shown = new Set<string>();

  constructor(private readonly registry: TimeoutRegistry) {}

  show(name: string, inMs: number): void {
    const timer = setTimeout(() => undefined, inMs).unref();
    try {
      this.registry.addTimeout(name, timer);
      this.shown.add(name);
    } catch {
      // The application has a timeout of that name, and keeps it.
      clearTimeout(timer);
    }
  }

  hide(name: string): void {
    if (!this.shown.delete(name)) return;
    try {
      this.registry.deleteTimeout(name);
    } catch {
      // Somebody was faster.
    }
  }
}
