/**
 * Ends a run of the tests with one line that counts them: `N passed, N failed`. Before it, what was skipped, by name.
 *
 * A test that is skipped proves nothing and looks like one that passed. So where `CI` is `true` each counts as failed,
 * except those of {@link MAY_BE_SKIPPED}. Tests left out by their name (`-t`) are not looked at.
 */
import type { Reporter, TestModule, Vitest } from 'vitest/node';

/** Tests that not every machine can run, as `file > name`, and why. */
export const MAY_BE_SKIPPED: Readonly<Record<string, string>> = {
  'test/deploy/kubernetes.test.ts > the overlay with identities > is what kubectl makes of it':
    'no Debian package has kubectl; what it would make is compared with the manifests where it is there',
  'test/integration/containment/process.test.ts > workers under another user > run as that user and group, and stats() says so':
    'only root may start processes of another user, and only from a folder that everybody may read',
};

export interface Counted {
  /** As `file > name`; a file that did not load is known by its own. */
  readonly name: string;
  readonly state: 'passed' | 'failed' | 'skipped' | 'pending';
}

/** The last lines of a run, and whether it fails for what they say of skipped tests. */
export function summaryOf(
  tests: readonly Counted[],
  { mustRun }: { readonly mustRun: boolean },
): { readonly lines: readonly string[]; readonly fails: boolean } {
  const count = (state: Counted['state']): number => tests.filter((test) => test.state === state).length;
  const skipped = tests.filter(({ state }) => state === 'skipped');
  const missed = mustRun ? skipped.filter(({ name }) => !Object.hasOwn(MAY_BE_SKIPPED, name)) : [];
  return {
    lines: [
      ...skipped.map((test) => {
        const why = missed.includes(test) ? 'it must run here' : (MAY_BE_SKIPPED[test.name] ?? 'not in CI');
        return `skipped: ${test.name} (${why})`;
      }),
      `${skipped.length} skipped`,
      `${count('passed')} passed, ${count('failed') + missed.length} failed`,
    ],
    fails: missed.length > 0,
  };
}

export default class Summary implements Reporter {
  #filtered = false;

  onInit(vitest: Vitest): void {
    this.#filtered = vitest.config.testNamePattern !== undefined;
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const tests = modules.flatMap((module): Counted[] => {
      const { relativeModuleId: file } = module;
      const own = [...module.children.allTests()].map((test) => ({
        name: `${file} > ${test.fullName}`,
        state: test.result().state,
      }));
      // A file that did not load has no tests to fail, and a hook that fails has those of its suite skipped.
      const broken = [module, ...module.children.allSuites()].filter((each) => each.errors().length > 0);
      return [...own, ...broken.map((): Counted => ({ name: file, state: 'failed' }))];
    });
    const looked = this.#filtered ? tests.filter(({ state }) => state !== 'skipped') : tests;
    const { lines, fails } = summaryOf(looked, { mustRun: process.env.CI === 'true' });
    if (fails) process.exitCode = 1;
    process.stdout.write(`\n${lines.join('\n')}\n`);
  }
}
