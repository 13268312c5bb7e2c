import { createRequire } from 'node:module';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { InvalidOptionsError } from '../job/errors.js';

/** A class whose properties carry decorators of class-validator. */
export type DtoClass = new () => object;

/** The part of class-validator's ValidationError that we read. */
interface DtoError {
  readonly property: string;
  readonly constraints?: Readonly<Record<string, string>>;
  readonly children?: readonly DtoError[];
}

/** The packages that a DTO needs; like Nest's ValidationPipe, they are not needed by who does not use one. */
const PACKAGES = ['class-validator', 'class-transformer'];

/**
 * A Standard Schema of a class-validator DTO: a payload becomes an instance of the class, and is valid when
 * class-validator finds nothing. Modelled on Nest's ValidationPipe.
 *
 * @throws {InvalidOptionsError} when the packages are not installed
 */
export function dtoSchema(dto: DtoClass, option: string): StandardSchemaV1 {
  const { resolve } = createRequire(import.meta.url);
  for (const name of PACKAGES) {
    if (!canResolve(resolve, name)) {
      throw new InvalidOptionsError(
        option,
        dto,
        `A DTO class needs ${PACKAGES.join(' and ')}: npm install ${PACKAGES.join(' ')}.`,
      );
    }
  }
  return { '~standard': { version: 1, vendor: 'nestmq', validate: (payload) => validateDto(dto, payload) } };
}

async function validateDto(dto: DtoClass, payload: unknown): Promise<StandardSchemaV1.Result<unknown>> {
  const [{ validate }, { plainToInstance }] = await Promise.all([
    import('class-validator'),
    import('class-transformer'),
  ]);
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) {
    return { issues: [{ message: 'must be an object' }] };
  }
  const value: object = plainToInstance(dto, payload);
  const issues = (await validate(value, { forbidUnknownValues: false })).flatMap((error) => issuesOf(error, []));
  return issues.length > 0 ? { issues } : { value };
}

function issuesOf(
  { property, constraints = {}, children = [] }: DtoError,
  above: readonly string[],
): StandardSchemaV1.Issue[] {
  const path = [...above, property];
  const own = Object.values(constraints).map((message) => ({ message, path }));
  return [...own, ...children.flatMap((child) => issuesOf(child, path))];
}

function canResolve(resolve: NodeJS.RequireResolve, name: string): boolean {
  try {
    resolve(name);
    return true;
  } catch {
    return false;
  }
}
