/**
 * How the examples print: short headings, two columns, colour only where a person looks at a terminal.
 */
import { styleText } from 'node:util';

const LABEL_WIDTH = 16;

/** Colours follow `NO_COLOR` and are left out when the output is no terminal. */
type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan';
function paint(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stdout });
}

export const good = (text: string): string => paint('green', text);
export const bad = (text: string): string => paint('red', text);
export const warn = (text: string): string => paint('yellow', text);
export const dim = (text: string): string => paint('dim', text);
export const name = (text: string): string => paint('cyan', text);

/** A title with an empty line before it. */
export function heading(title: string): void {
  console.log(`\n${paint('bold', title)}`);
}

/** A line of two columns: what, and how it is with it. */
export function row(label: string, text: string): void {
  console.log(`  ${label.padEnd(LABEL_WIDTH)}${text}`.trimEnd());
}

/** A text of several lines, indented as the rows are. */
export function block(text: string): void {
  console.log(text.trimEnd().replaceAll(/^(?=.)/gm, '  '));
}

/** A duration for people. */
export function ms(duration: number): string {
  return duration < 10 ? `${duration.toFixed(1)} ms` : `${Math.round(duration)} ms`;
}

/** Bytes for people. */
export function mib(bytes: number): string {
  return `${Math.round(bytes / 1024 / 1024)} MiB`;
}
