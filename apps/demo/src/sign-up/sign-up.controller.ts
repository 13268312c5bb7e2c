import { BadRequestException, Body, ConflictException, Controller, Post } from '@nestjs/common';
import { QueryFailedError } from 'typeorm';
import { SignUp } from './sign-up.js';

const UNIQUE_VIOLATION = '23505';

@Controller('sign-up')
export class SignUpController {
  constructor(private readonly signUp: SignUp) {}

  @Post()
  async register(@Body() body: unknown): Promise<{ id: string; email: string }> {
    const { id, email } = await this.signUp.register({ email: emailOf(body) }).catch(refuseSecond);
    return { id, email };
  }
}

function emailOf(body: unknown): string {
  const email = (body as { email?: unknown } | undefined)?.email;
  if (typeof email === 'string' && email.length <= 254 && /^[^\s@]+@[^\s@]+$/.test(email)) return email;
  throw new BadRequestException('Send JSON such as {"email": "ada@example.org"}.');
}

function refuseSecond(error: unknown): never {
  const code = error instanceof QueryFailedError ? (error.driverError as { code?: string }).code : undefined;
  throw code === UNIQUE_VIOLATION ? new ConflictException('This address has an account already.') : error;
}
