/**
 * The command line of the next release: a program for `startBrokerPod({ program: NEXT_POD })`, beside pods of the
 * plain command line, which are the older release then. Everything but the codec of sessions' snapshots is today's.
 *
 * src/session/release.ts is the one module that says what a release reads and writes; here another one is loaded in
 * its place, so that no product code knows of this.
 */
import { registerHooks } from 'node:module';

const RELEASE = new URL('../../src/session/release.ts', import.meta.url).href;
const NEXT_RELEASE = new URL('nextrelease.ts', import.meta.url).href;

registerHooks({
  resolve(specifier, context, nextResolve) {
    const found = nextResolve(specifier, context);
    // The next release is built on this one.
    return found.url === RELEASE && context.parentURL !== NEXT_RELEASE
      ? { ...found, url: NEXT_RELEASE }
      : found;
  },
});

await import('../../src/cli.ts');
