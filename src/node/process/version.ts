/** The version of the program, from the package that it is part of. */
import { readFileSync } from 'node:fs'

/** package.json lies three directories above both src/node/process and dist/node/process. */
export function packageVersion(): string {
  const path = new URL('../../../package.json', import.meta.url)
  const parsed: unknown = JSON.parse(readFileSync(path, 'utf8'))
  return typeof parsed === 'object' && parsed !== null && 'version' in parsed
    ? String(parsed.version)
    : 'unknown'
}
