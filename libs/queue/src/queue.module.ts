import {
  Module,
  type DynamicModule,
  type InjectionToken,
  type ModuleMetadata,
  type OptionalFactoryDependency,
  type Provider,
  type Type,
} from '@nestjs/common';
import { DiscoveryModule, DiscoveryService, MetadataScanner, ModuleRef, ModulesContainer } from '@nestjs/core';
import { Logger } from '@nestjs/common';
import { getDataSourceToken } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { HandlerExplorer } from './handlers/handler.explorer.js';
import { DuplicateInstanceError, InvalidOptionsError } from './job/errors.js';
import { LoopBoard, type TimeoutRegistry } from './maintenance/loop-board.js';
import { QueueInstance } from './queue.instance.js';
import {
  checkInstanceName,
  DEFAULT_INSTANCE,
  getDeadLettersToken,
  getJobSpawnerToken,
  getQueueToken,
  instanceToken,
  optionsToken,
} from './queue.module-definition.js';
import { resolveOptions, type QueueInstanceOptions, type QueueOptions } from './queue.options.js';

/** Options of `QueueModule.forRoot`: of the queue itself, and where it stands in the application. */
export type QueueModuleOptions = QueueOptions &
  QueueInstanceOptions & {
    /** Whether its providers can be injected everywhere. Default `true`. */
    isGlobal?: boolean;
  };

/** Makes the options of `forRootAsync`, as a class. */
export interface QueueOptionsFactory {
  /** Called once, at boot. */
  createQueueOptions(): QueueOptions | Promise<QueueOptions>;
}

/** One of `useFactory`, `useClass` and `useExisting`. */
export interface QueueModuleAsyncOptions extends QueueInstanceOptions, Pick<ModuleMetadata, 'imports'> {
  /** Whether its providers can be injected everywhere. Default `true`. */
  isGlobal?: boolean;
  /** Makes the options from what `inject` names. */
  // Any, so that a factory may name its own dependencies.
  useFactory?: (...dependencies: any[]) => QueueOptions | Promise<QueueOptions>;
  /** Tokens of what `useFactory` is called with. */
  inject?: (InjectionToken | OptionalFactoryDependency)[];
  /** A class of which one is made to ask for the options. */
  useClass?: Type<QueueOptionsFactory>;
  /** Token of a provider that is asked for the options. */
  useExisting?: InjectionToken<QueueOptionsFactory>;
  /** Providers that the options need, beside those of `imports`. */
  extraProviders?: Provider[];
}

/**
 * Background jobs out of the application's own PostgreSQL database.
 *
 * @example
 * \@Module({ imports: [TypeOrmModule.forRoot(db), QueueModule.forRoot()], providers: [Mailer] })
 * export class AppModule {}
 */
@Module({})
export class QueueModule {
  /** @throws {InvalidOptionsError} naming the option, the value and the range */
  static forRoot(options: QueueModuleOptions = {}): DynamicModule {
    const { name, dataSource, isGlobal, ...rest } = options;
    resolveOptions(rest);
    return build({ name, dataSource, isGlobal }, [{ provide: optionsToken(nameOf(name)), useValue: rest }]);
  }

  /** The same with options that other providers know. Name and DataSource are fixed here. */
  static forRootAsync(options: QueueModuleAsyncOptions): DynamicModule {
    return build(options, optionsProviders(options), options.imports);
  }
}

function nameOf(name: string | undefined): string {
  return name === undefined ? DEFAULT_INSTANCE : checkInstanceName(name);
}

function build(
  { name, dataSource, isGlobal = true }: QueueInstanceOptions & { isGlobal?: boolean | undefined },
  optionsProvider: Provider[],
  imports: ModuleMetadata['imports'] = [],
): DynamicModule {
  const instance = nameOf(name);
  const providers: Provider[] = [
    ...optionsProvider,
    {
      provide: instanceToken(instance),
      inject: [
        optionsToken(instance),
        ...dataSourceTokens(dataSource),
        DiscoveryService,
        MetadataScanner,
        ModuleRef,
        ModulesContainer,
      ],
      useFactory: (options: QueueOptions, ...rest: unknown[]) => makeInstance(instance, options, dataSource, rest),
    },
    {
      provide: getJobSpawnerToken(instance),
      inject: [instanceToken(instance)],
      useFactory: ({ spawner }: QueueInstance) => spawner,
    },
    {
      provide: getQueueToken(instance),
      inject: [instanceToken(instance)],
      useFactory: ({ queue }: QueueInstance) => queue,
    },
    {
      provide: getDeadLettersToken(instance),
      inject: [instanceToken(instance)],
      useFactory: ({ deadLetters }: QueueInstance) => deadLetters,
    },
  ];
  return {
    module: QueueModule,
    global: isGlobal,
    imports: [DiscoveryModule, ...imports],
    providers,
    exports: [getJobSpawnerToken(instance), getQueueToken(instance), getDeadLettersToken(instance)],
  };
}

function optionsProviders({
  name,
  useFactory,
  inject,
  useClass,
  useExisting,
  extraProviders = [],
}: QueueModuleAsyncOptions): Provider[] {
  const provide = optionsToken(nameOf(name));
  const given = [useFactory, useClass, useExisting].filter((way) => way !== undefined);
  if (given.length !== 1) {
    throw new InvalidOptionsError(
      'forRootAsync',
      `${given.length} ways`,
      'Give one of useFactory, useClass and useExisting.',
    );
  }
  if (useFactory) return [...extraProviders, { provide, useFactory, inject: inject ?? [] }];
  const factory = (useExisting ?? useClass)!;
  const made: Provider = {
    provide,
    useFactory: (source: QueueOptionsFactory) => source.createQueueOptions(),
    inject: [factory],
  };
  return useClass ? [...extraProviders, useClass, made] : [...extraProviders, made];
}

function isDataSource(given: QueueInstanceOptions['dataSource']): given is DataSource {
  return typeof given === 'object' && given !== null && 'createQueryRunner' in given;
}

function dataSourceTokens(given: QueueInstanceOptions['dataSource']): InjectionToken[] {
  if (isDataSource(given)) return [];
  return [typeof given === 'string' || given === undefined ? (getDataSourceToken(given) as InjectionToken) : given];
}

function makeInstance(
  name: string,
  options: QueueOptions,
  given: QueueInstanceOptions['dataSource'],
  rest: unknown[],
): QueueInstance {
  const injected = isDataSource(given) ? [given, ...rest] : rest;
  const [dataSource, discovery, scanner, moduleRef, modules] = injected as [
    DataSource,
    DiscoveryService,
    MetadataScanner,
    ModuleRef,
    ModulesContainer,
  ];
  const resolved = resolveOptions(options);
  const explorer = new HandlerExplorer(discovery, scanner, moduleRef, new Logger('QueueModule'));
  return new QueueInstance({
    name,
    options: resolved,
    dataSource,
    explore: (registry) => explorer.explore(registry),
    board: () => findLoopBoard(discovery),
    checkUnique: () => checkUnique(name, modules),
  });
}

function checkUnique(name: string, modules: ModulesContainer): void {
  const same = [...modules.values()].filter((module) => module.providers.has(instanceToken(name)));
  if (same.length > 1) throw new DuplicateInstanceError(name);
}

/**
 * The SchedulerRegistry of @nestjs/schedule where the application has it, told by its shape: importing that package
 * would make it a dependency, and importing its module would make the application's own intervals fire twice.
 */
function findLoopBoard(discovery: DiscoveryService): LoopBoard | null {
  const registry = discovery
    .getProviders()
    .find(
      ({ name, instance }) =>
        name === 'SchedulerRegistry' && typeof (instance as TimeoutRegistry | null)?.addTimeout === 'function',
    );
  return registry === undefined ? null : new LoopBoard(registry.instance as TimeoutRegistry);
}
