import { type Logger } from '@nestjs/common';
import { ContextIdFactory, type DiscoveryService, type MetadataScanner, type ModuleRef } from '@nestjs/core';
import type { JobBatch } from '../job/batch.js';
import type { Job } from '../job/job.js';
import type { HandlerRegistry } from './handler.registry.js';
import { belongsTo, handlerMetadataOf, type HandlerMetadata } from './job-handler.decorator.js';
import { resolveHandler } from './resolve-handler.js';

type Wrapper = ReturnType<DiscoveryService['getProviders']>[number];

type Work = Job | JobBatch;

type Methods = Record<string, (work: Work) => unknown>;

/** Finds the methods with `@JobHandler` in every provider and controller of the application. */
export class HandlerExplorer {
  constructor(
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
    private readonly moduleRef: ModuleRef,
    private readonly logger: Logger,
  ) {}

  explore(registry: HandlerRegistry): void {
    const seen = new Set<object>();
    for (const wrapper of [...this.discovery.getProviders(), ...this.discovery.getControllers()]) {
      const prototype = prototypeOf(wrapper);
      // The same object under several tokens (`useExisting`) is one provider.
      const identity = (wrapper.isDependencyTreeStatic() ? (wrapper.instance as object | null) : null) ?? prototype;
      if (prototype === null || identity === null || seen.has(identity)) continue;
      seen.add(identity);
      this.exploreOne(wrapper, prototype, registry);
    }
  }

  private exploreOne(wrapper: Wrapper, prototype: object, registry: HandlerRegistry): void {
    for (const method of this.scanner.getAllMethodNames(prototype)) {
      const metadata = handlerMetadataOf((prototype as Methods)[method]);
      if (metadata === undefined || !belongsTo(metadata, registry.settings.instance)) continue;
      const ownerClass = prototype.constructor;
      const label = `${ownerClass.name}.${method}`;
      this.warnOfMinifiedName(ownerClass.name, metadata, label);
      const invoke = this.invoker(wrapper, method);
      const handler = resolveHandler({ label, metadata, invoke }, registry.settings.defaults);
      registry.add(handler, ownerClass, method);
      this.logger.log(`Job "${handler.name}" of channel "${handler.channel}" is handled by ${label}`);
    }
  }

  /** Request-scoped providers are made anew for every job, or batch, which they can inject as `REQUEST`. */
  private invoker(wrapper: Wrapper, method: string): (work: Work) => unknown {
    if (wrapper.isDependencyTreeStatic()) {
      const instance = wrapper.instance as Methods;
      return (work) => instance[method]!(work);
    }
    return async (work) => {
      const contextId = ContextIdFactory.getByRequest(work);
      this.moduleRef.registerRequestByContextId(work, contextId);
      const instance = await this.moduleRef.resolve<Methods>(wrapper.token, contextId, { strict: false });
      return instance[method]!(work);
    };
  }

  private warnOfMinifiedName(className: string, { options }: HandlerMetadata, label: string): void {
    if (options.name !== undefined || className.length > 2) return;
    this.logger.warn(
      `The class of job handler ${label} looks minified: its jobs would get another name with the next build. Give @JobHandler a name.`,
    );
  }
}

/**
 * Where the methods of a provider stand. A `useFactory` provider has its factory as metatype and a `useValue` one has
 * none, so the instance is asked, except for request-scoped ones, which have no usable instance.
 */
function prototypeOf(wrapper: Wrapper): object | null {
  if (!wrapper.isDependencyTreeStatic()) {
    return typeof wrapper.metatype === 'function' ? ((wrapper.metatype.prototype as object | undefined) ?? null) : null;
  }
  const instance: unknown = wrapper.instance;
  if (typeof instance !== 'object' || instance === null) return null;
  return Object.getPrototypeOf(instance) as object | null;
}
