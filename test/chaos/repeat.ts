/** Runs the chaos suite as often as it says, 20 times by default, and prints a line for each round: `node test/chaos/repeat.ts 20`. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';

const rounds = Number(process.argv[2] ?? 20);
const root = path.resolve(import.meta.dirname, '../..');
let failed = 0;
for (let round = 1; round <= rounds; round++) {
  const startedAt = performance.now();
  const run = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', 'test/chaos'], {
    cwd: root,
    encoding: 'utf8',
    timeout: 900_000,
  });
  const seconds = Math.round((performance.now() - startedAt) / 1_000);
  const counted = /\d+ passed, \d+ failed/.exec(run.stdout)?.[0] ?? 'no count';
  process.stdout.write(`round ${round} of ${rounds}: ${counted}, ${seconds} s\n`);
  if (run.status !== 0) {
    failed++;
    // Failures are told on stderr, what the tests print on stdout.
    process.stdout.write(`${run.stdout.slice(-8_000)}\n${run.stderr.slice(-8_000)}\n`);
  }
}
process.stdout.write(`${rounds - failed} of ${rounds} rounds passed\n`);
process.exitCode = failed === 0 ? 0 : 1;
