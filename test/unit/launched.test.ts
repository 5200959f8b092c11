/** What processes of the harness print. */
import { expect, it } from 'vitest';
import { Launched } from '../support/processes.ts';

it('every line of both streams is told as it comes, whole, though only the last ones are kept', async () => {
  const lines: string[] = [];
  const program = `for (let n = 0; n < 3_000; n++) {
    process.stdout.write('out ' + n + ' ');
    process.stderr.write('err ' + n + '.\\n');
    process.stdout.write('x'.repeat(50) + '.\\n');
  }`;
  const one = new Launched(process.execPath, ['-e', program], { onLine: (line) => lines.push(line) });
  await one.closed;
  for (const stream of ['out', 'err'])
    expect(
      lines.filter((line) => line.startsWith(stream)).map((line) => Number(line.split(/[ .]/)[1])),
    ).toEqual(Array.from({ length: 3_000 }, (_, n) => n));
  expect(lines.every((line) => /^(?:out \d+ x{50}|err \d+)\.$/.test(line))).toBe(true);
  expect(one.output.split('\n').length).toBeLessThan(300);
});
