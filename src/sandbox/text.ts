/** Texts that came from a script: what is made of them before anyone else sees them. */

/**
 * A stack that V8 formatted by itself (no stack was left to format it with) names the guest's own functions and
 * counts its lines: only its message is kept.
 */
export function scriptFrames(stack: string): string {
  // Linear in whatever a script makes of its stack: nothing here can match in more than one way.
  return /^[ \t]{1,8}at .*\bguest:\d+/m.test(stack) ? stack.replace(/\n[ \t]{1,8}at [\s\S]*$/, '') : stack;
}

/** What a text says if it is JSON, else undefined. */
export function parsedOrNothing(json: string): unknown {
  try {
    return json === '' ? undefined : (JSON.parse(json) as unknown);
  } catch {
    return undefined;
  }
}

/** Whether a text is the JSON of an object. The guest makes sure of it; a worker that is not ours may not. */
export function plainState(json: string): boolean {
  const value = parsedOrNothing(json);
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
