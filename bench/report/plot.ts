/** A plot as an SVG file that needs nothing else: it is read in light and in dark pages. */
export interface Mark {
  readonly label: string;
  readonly tone: 'nestmq' | 'peer' | 'raw';
  /** Of a bar: least, median, greatest. Of a range: p50, p95, p99. */
  readonly values: readonly [number, number, number];
}

export interface Group {
  readonly name: string;
  readonly marks: readonly Mark[];
}

const WIDTH = 820;
const LABELS = 210;
const NUMBERS = 150;
const SPAN = WIDTH - LABELS - NUMBERS;
const LINE = 22;

const TONES = { nestmq: '#0f9d76', peer: '#7d8ba1', raw: '#c3a55a' } as const;

/** Bars from zero, with the least and the greatest run. */
export function barPlot(title: string, groups: readonly Group[]): string {
  const most = Math.max(...groups.flatMap(({ marks }) => marks.map(({ values }) => values[2])));
  const x = (value: number): number => LABELS + (value / most) * SPAN;
  return plot(title, groups, ({ tone, values: [least, median, greatest] }, y) => [
    `<rect x="${LABELS}" y="${y + 4}" width="${round(x(median) - LABELS)}" height="${LINE - 8}" rx="2" fill="${TONES[tone]}"/>`,
    `<path d="M${round(x(least))} ${y + LINE / 2}H${round(x(greatest))}" stroke="currentColor" stroke-width="1.5"/>`,
    text(Math.max(x(median), x(greatest)) + 6, y, numberOf(median)),
  ]);
}

/** From p50 to p99 on a logarithmic scale: a system that polls is a thousand times slower. */
export function rangePlot(title: string, groups: readonly Group[]): string {
  const values = groups.flatMap(({ marks }) => marks.flatMap((mark) => mark.values)).filter((value) => value > 0);
  const least = Math.log10(Math.min(...values) / 1.5);
  const most = Math.log10(Math.max(...values));
  const x = (value: number): number => LABELS + ((Math.log10(Math.max(value, 10 ** least)) - least) / (most - least)) * SPAN; // prettier-ignore
  return plot(title, groups, ({ tone, values: [p50, , p99] }, y) => [
    `<path d="M${round(x(p50))} ${y + LINE / 2}H${round(x(p99))}" stroke="${TONES[tone]}" stroke-width="6" stroke-linecap="round"/>`,
    `<circle cx="${round(x(p50))}" cy="${y + LINE / 2}" r="5" fill="${TONES[tone]}"/>`,
    text(x(p99) + 10, y, `${numberOf(p50)} – ${numberOf(p99)}`),
  ]);
}

export interface Line {
  readonly label: string;
  readonly tone: Mark['tone'];
  readonly values: readonly number[];
}

/** Figures of second after second. */
export function linePlot(title: string, lines: readonly Line[]): string {
  const height = 300;
  const most = Math.max(...lines.flatMap(({ values }) => values));
  const length = Math.max(...lines.map(({ values }) => values.length));
  const x = (index: number): number => 60 + (index / Math.max(1, length - 1)) * (WIDTH - 240);
  const y = (value: number): number => 40 + (1 - value / most) * (height - 70);
  const body = lines.flatMap(({ label, tone, values }, index) => [
    `<polyline fill="none" stroke="${TONES[tone]}" stroke-width="2" stroke-dasharray="${['', '6 3', '2 3', '8 3 2 3'][index % 4]}" points="${values.map((value, at) => `${round(x(at))},${round(y(value))}`).join(' ')}"/>`,
    text(x(values.length - 1) + 6, y(values.at(-1) ?? 0) - LINE / 2, label),
  ]);
  const axis = [0, most / 2, most].map((value) => text(0, y(value) - LINE / 2, numberOf(value)));
  return frame(title, height, [...axis, ...body, text(60, height - 26, `seconds 1 to ${length}`)]);
}

function plot(title: string, groups: readonly Group[], draw: (mark: Mark, y: number) => string[]): string {
  const body: string[] = [];
  let y = 34;
  for (const { name, marks } of groups) {
    body.push(text(0, y, name, 'font-weight="600"'));
    y += LINE;
    for (const mark of marks) {
      body.push(text(12, y, mark.label), ...draw(mark, y));
      y += LINE;
    }
    y += 8;
  }
  return frame(title, y + 8, body);
}

function frame(title: string, height: number, body: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="13" color="#333">`,
    `<title>${escape(title)}</title>`,
    `<rect width="100%" height="100%" fill="#fff"/>`,
    text(0, 6, title, 'font-size="14"'),
    ...body,
    '</svg>',
    '',
  ].join('\n');
}

const text = (x: number, y: number, content: string, more = ''): string =>
  `<text x="${round(x + 8)}" y="${round(y + 15)}" fill="currentColor" ${more}>${escape(content)}</text>`;

const round = (value: number): number => Math.round(value * 10) / 10;

const escape = (content: string): string => content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

function numberOf(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en-US').replaceAll(',', ' ') : String(Number(value.toPrecision(3))); // prettier-ignore
}
