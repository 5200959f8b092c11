/**
 * Takes from the worker process what its permission model leaves: signals, native loading, sockets, credentials.
 *
 * This wall stands behind the isolate: it matters only to code that already runs in the worker's own realm. It
 * is no wall against native code (README, "What contains a script"). Called after the one native addon is
 * loaded and before any script arrives.
 */
import { registerHooks } from 'node:module';
import process from 'node:process';

/** Functions of `process` that act outside this process or load code into it. */
const POWERS = [
  'kill',
  '_kill',
  'dlopen',
  'binding',
  '_linkedBinding',
  '_debugProcess',
  '_getActiveHandles',
  '_getActiveRequests',
  '_debugEnd',
  '_startProfilerIdleNotifier',
  '_stopProfilerIdleNotifier',
  '_rawDebug',
  'getBuiltinModule',
  'loadEnvFile',
  'chdir',
  'umask',
  'setuid',
  'seteuid',
  'setgid',
  'setegid',
  'setgroups',
  'initgroups',
  'execve',
  'abort',
] as const;

const GLOBALS = [
  'fetch',
  'WebSocket',
  'EventSource',
  'BroadcastChannel',
  'WebAssembly',
  'navigator',
  'require',
] as const;

/** What the worker itself still needs, and nobody else gets. */
export interface KeptPowers {
  /** End this process at once, whatever runs in it. */
  readonly die: () => never;
}

/** Remove the powers. `allowed` is the one package that may still be loaded, with what it loads itself. */
export function lockDown(allowed: string): KeptPowers {
  // process.kill() itself calls process._kill(), which is about to go.
  const kill = (process as unknown as { _kill: (pid: number, signal: number) => number })._kill.bind(process);
  const SIGKILL = 9;
  const exit = process.exit.bind(process);
  const { pid } = process;
  for (const name of POWERS) Reflect.deleteProperty(process, name);
  for (const name of POWERS) {
    if (name in process)
      Object.defineProperty(process, name, { value: undefined, writable: false, configurable: false });
  }
  for (const name of GLOBALS) {
    // The type stripper is a WebAssembly module: it keeps the copy that it took when it was loaded.
    if (name !== 'WebAssembly') Reflect.deleteProperty(globalThis, name);
  }
  registerHooks({
    resolve(specifier, context, next) {
      const own = specifier === allowed || context.parentURL?.includes(`/node_modules/${allowed}/`) === true;
      if (!own) throw new Error('This process loads no modules');
      return next(specifier, context);
    },
  });
  return {
    die: () => {
      kill(pid, SIGKILL);
      // SIGKILL needs no more than the return to user space; this line is for the type only.
      return exit(1);
    },
  };
}
