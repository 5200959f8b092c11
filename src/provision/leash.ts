/**
 * Loaded into a runtime before its program: ends it when the process that started it is gone, however that ended. The
 * parent holds the other end of stdin and never writes to it.
 *
 * `?killAfterMs=` of its own URL: how long the runtime may take to end, in ms.
 */
const killAfterMs = Number(new URL(import.meta.url).searchParams.get('killAfterMs'));

process.stdin.resume();
process.stdin.once('close', () => {
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), killAfterMs).unref();
  process.kill(process.pid, 'SIGTERM');
});
// It does not keep the runtime up.
(process.stdin as unknown as { unref?: () => void }).unref?.();
