import { stripVTControlCharacters } from 'node:util';
import { ConsoleLogger } from '@nestjs/common';

const ERASE_LINE = '\r\x1b[K';

/** A terminal whose last line is a progress bar, drawn again in place; anything else gets plain lines. */
export class Screen {
  private bar = '';

  constructor(private readonly out: NodeJS.WriteStream) {}

  get isTerminal(): boolean {
    return this.out.isTTY;
  }

  /** Above the bar. */
  print(text: string): void {
    this.erase();
    this.out.write(`${this.isTerminal ? text : stripVTControlCharacters(text)}\n`);
    this.out.write(this.bar);
  }

  draw(bar: string): void {
    if (!this.isTerminal) return this.print(bar);
    this.erase();
    this.bar = fit(bar, this.out.columns);
    this.out.write(this.bar);
  }

  /** Leaves no bar behind. */
  clear(): void {
    this.erase();
    this.bar = '';
  }

  private erase(): void {
    if (this.bar !== '') this.out.write(ERASE_LINE);
  }
}

/** A line that wrapped could not be erased; without its colours it can be cut. */
function fit(line: string, columns: number): string {
  const plain = stripVTControlCharacters(line);
  return plain.length < columns ? line : plain.slice(0, columns - 1);
}

/** Nest's log, above the bar. */
export class ScreenLogger extends ConsoleLogger {
  constructor(private readonly screen: Screen) {
    super({ logLevels: ['warn', 'error', 'fatal'] });
  }

  protected override printMessages(...message: Parameters<ConsoleLogger['printMessages']>): void {
    this.screen.clear();
    super.printMessages(...message);
  }
}
