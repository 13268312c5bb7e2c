import { Controller, Get, HttpCode, NotFoundException, Param, ParseIntPipe, Post } from '@nestjs/common';
import { recordsWanted } from '../environment.js';
import { Imports } from '../import/imports.js';
import { Progress, type ImportProgress, type Rejection } from './progress.js';

@Controller()
export class ImportController {
  constructor(
    private readonly imports: Imports,
    private readonly progress: Progress,
  ) {}

  @Get()
  async latest(): Promise<{ routes: string[]; import: ImportProgress | null }> {
    const run = await this.imports.latest();
    const routes = ['POST /imports', 'GET /imports/:id', 'POST /sign-up {"email"}'];
    return { routes, import: run && (await this.progress.of(run.id)) };
  }

  /** Begins an import, or answers the one that is under way. */
  @Post('imports')
  @HttpCode(202)
  async begin(): Promise<{ id: number; isNew: boolean }> {
    const { run, isNew } = await this.imports.begin(recordsWanted());
    return { id: run.id, isNew };
  }

  @Get('imports/:id')
  async one(@Param('id', ParseIntPipe) id: number): Promise<ImportProgress & { rejections: Rejection[] }> {
    const progress = await this.progress.of(id);
    if (progress === null) throw new NotFoundException(`Import ${id} is not the latest one, or there is none.`);
    return { ...progress, rejections: await this.progress.rejections() };
  }
}
