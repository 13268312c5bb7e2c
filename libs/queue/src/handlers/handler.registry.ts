import { DuplicateHandlerError, UnknownJobError } from '../job/errors.js';
import type { HandlerClass, HandlerLookup, HandlerPreset, RegisteredHandler } from '../job/handler.js';
import { belongsTo, handlerMetadataOf } from './job-handler.decorator.js';
import { resolveHandler } from './resolve-handler.js';

export interface RegistrySettings {
  /** Handlers that name another instance are left to it. */
  readonly instance: string;
  /** Options below those of every handler. */
  readonly defaults: HandlerPreset;
}

/** The handlers of one instance, by name and by class and method. */
export class HandlerRegistry implements HandlerLookup {
  private readonly byName = new Map<string, RegisteredHandler>();
  private readonly byMethod = new Map<unknown, RegisteredHandler>();
  private readonly all: RegisteredHandler[] = [];

  constructor(readonly settings: RegistrySettings) {}

  /**
   * @param method the decorated function
   * @throws {DuplicateHandlerError} when a name is taken
   */
  add(handler: RegisteredHandler, ownerClass: unknown, method: string): void {
    for (const name of [handler.name, ...handler.formerNames]) {
      const other = this.byName.get(name);
      if (other !== undefined) throw new DuplicateHandlerError(name, other.label, handler.label);
      this.byName.set(name, handler);
    }
    this.all.push(handler);
    this.byMethod.set(methodKey(ownerClass, method), handler);
  }

  find(jobName: string): RegisteredHandler | undefined {
    return this.byName.get(jobName);
  }

  /**
   * The handler that a class's method is. It need not be a provider here: a process that only sends jobs has the class
   * for its types, and its decorator says the rest.
   *
   * @throws {UnknownJobError} when the method has no `@JobHandler`
   */
  findMethod(ownerClass: HandlerClass, method: string): RegisteredHandler {
    const key = methodKey(ownerClass, method);
    const known = this.byMethod.get(key);
    if (known !== undefined) return known;
    const label = `${ownerClass.name}.${method}`;
    const metadata = handlerMetadataOf((ownerClass.prototype as Record<string, unknown> | undefined)?.[method]);
    if (metadata === undefined || !belongsTo(metadata, this.settings.instance))
      throw new UnknownJobError(label, this.names());
    const invoke = (): never => {
      throw new UnknownJobError(label, this.names());
    };
    const handler = resolveHandler({ label, metadata, invoke }, this.settings.defaults);
    this.byMethod.set(key, handler);
    return handler;
  }

  handlers(): readonly RegisteredHandler[] {
    return this.all;
  }

  /** Every name that can be run here, former ones too. */
  names(): string[] {
    return [...this.byName.keys()];
  }
}

/** Classes are compared by identity: two of one name are two. */
const classIds = new WeakMap<object, number>();
let nextClassId = 0;

function methodKey(ownerClass: unknown, method: string): string {
  const owner = ownerClass as object;
  let id = classIds.get(owner);
  if (id === undefined) classIds.set(owner, (id = nextClassId++));
  return `${id}.${method}`;
}
