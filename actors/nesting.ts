/**
 * How deeply JSON may be nested: who writes or walks a value recursively needs stack for every level, and whoever
 * receives it may have less stack than its sender.
 */

/** Levels of arrays and objects within each other. */
export const MAX_NESTING = 1_000;

const QUOTE = 34;
const BACKSLASH = 92;
const OPEN_BRACKET = 91;
const CLOSE_BRACKET = 93;
const OPEN_BRACE = 123;
const CLOSE_BRACE = 125;

/** Whether JSON text is nested deeper than {@link MAX_NESTING}. Linear, and free for short texts. */
export function isTooDeep(json: string): boolean {
  // A level takes two characters at least.
  if (json.length <= 2 * MAX_NESTING) return false;
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (code === OPEN_BRACKET || code === OPEN_BRACE) {
      if (++depth > MAX_NESTING) return true;
    } else if (code === CLOSE_BRACKET || code === CLOSE_BRACE) depth--;
    else if (code === QUOTE) at = endOfString(json, at);
  }
  return false;
}

/** Where the string ends that begins there. */
function endOfString(json: string, begin: number): number {
  let end = json.indexOf('"', begin + 1);
  while (end !== -1 && isEscaped(json, end)) end = json.indexOf('"', end + 1);
  return end === -1 ? json.length : end;
}

function isEscaped(json: string, quote: number): boolean {
  let at = quote;
  while (json.charCodeAt(at - 1) === BACKSLASH) at--;
  return (quote - at) % 2 === 1;
}
