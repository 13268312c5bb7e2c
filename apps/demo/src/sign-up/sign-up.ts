import { Injectable } from '@nestjs/common';
import { JobSpawner } from 'nestmq';
import { DataSource } from 'typeorm';
import { Mailer } from './mailer.js';
import { User } from './user.entity.js';

@Injectable()
export class SignUp {
  constructor(
    private readonly dataSource: DataSource,
    private readonly jobs: JobSpawner,
  ) {}

  async register(input: { email: string }): Promise<User> {
    return this.dataSource.transaction(async (manager) => {
      const user = await manager.save(User, input);
      await this.jobs.spawn(Mailer, 'welcome', { userId: user.id }, { manager }); // commits or rolls back with the user
      return user;
    });
  }
}
