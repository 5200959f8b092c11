/** The package as `npm run build` made it: pods that start from TypeScript spend as long again on stripping types. */
import { fileURLToPath } from 'node:url';

const dist = new URL('../../../dist/src/', import.meta.url);

/** The command line, which pods are started through. */
export const CLI = fileURLToPath(new URL('cli.js', dist));

export const { createSystem, defineTool, EnclaveClient, provideTools } = (await import(
  new URL('index.js', dist).href
)) as typeof import('../../../src/index.ts');
