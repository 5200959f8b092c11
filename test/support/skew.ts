/** Imported before a pod's program: its wall clock is ahead by ENCLAVE_TEST_SKEW_MS, its monotonic clock is as it was. */
const skewMs = Number(process.env.ENCLAVE_TEST_SKEW_MS ?? 0);
const now = Date.now.bind(Date);

globalThis.Date = new Proxy(Date, {
  construct: (target, args: readonly unknown[], newTarget) =>
    Reflect.construct(target, args.length === 0 ? [now() + skewMs] : args, newTarget) as object,
  apply: (target) => new target(now() + skewMs).toString(),
});
Date.now = () => now() + skewMs;
Object.defineProperty(performance, 'timeOrigin', { value: performance.timeOrigin + skewMs });
