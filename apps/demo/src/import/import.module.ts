import { Module } from '@nestjs/common';
import { CountryCounter } from './country-counter.js';
import { Imports } from './imports.js';
import { PartWriter } from './part-writer.js';
import { RecordInspector } from './record-inspector.js';
import { Splitter } from './splitter.js';

@Module({ providers: [Imports, Splitter, PartWriter, CountryCounter, RecordInspector], exports: [Imports] })
export class ImportModule {}
