import { Module } from '@nestjs/common';
import { CountrySummaries } from './country-summaries.js';
import { FileImport } from './file-import.js';
import { Imports } from './imports.js';
import { RecordInspector } from './record-inspector.js';

@Module({ providers: [Imports, FileImport, CountrySummaries, RecordInspector], exports: [Imports] })
export class ImportModule {}
