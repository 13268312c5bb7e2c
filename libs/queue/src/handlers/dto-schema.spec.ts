import 'reflect-metadata';
import { describe, expect, it } from '@jest/globals';
import { Type } from 'class-transformer';
import { IsInt, IsString, ValidateNested } from 'class-validator';
import { validatePayload } from '../job/validate-payload.js';
import { dtoSchema } from './dto-schema.js';

class Address {
  @IsString()
  city!: string;
}

class SignUpDto {
  @IsInt()
  age!: number;

  @ValidateNested()
  @Type(() => Address)
  address!: Address;
}

const schema = dtoSchema(SignUpDto, 'Mailer.welcome: schema');

describe('dtoSchema', () => {
  it('makes a valid payload an instance of the class', async () => {
    const payload = await validatePayload(schema, 'welcome', { age: 3, address: { city: 'Bonn' } });
    expect(payload).toBeInstanceOf(SignUpDto);
    expect((payload as SignUpDto).address).toBeInstanceOf(Address);
  });

  it('names every defect with its path', async () => {
    await expect(validatePayload(schema, 'welcome', { age: 'three', address: { city: 5 } })).rejects.toMatchObject({
      code: 'payload_invalid',
      issues: ['age: age must be an integer number', 'address.city: city must be a string'],
    });
  });

  it.each([null, 'text', [1], undefined])('refuses %j, which is no object', async (payload) => {
    await expect(validatePayload(schema, 'welcome', payload)).rejects.toMatchObject({ issues: ['must be an object'] });
  });
});
