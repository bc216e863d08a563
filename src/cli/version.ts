/** The version of the client, from the package that it is part of. */
import { readFileSync } from 'node:fs'
import type { Arguments } from './command.ts'
import { printJson, type Context } from './context.ts'

export async function version(context: Context, args: Arguments): Promise<number> {
  const mesh = packageVersion()
  if (args.flag('json'))
    await printJson(context.stdout, { v: 1, mesh, node: process.versions.node })
  else await context.stdout.write(`mesh ${mesh} (Node ${process.versions.node})\n`)
  return 0
}

/** package.json lies two directories above both src/cli and dist/cli. */
function packageVersion(): string {
  const parsed: unknown = JSON.parse(
    readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
  )
  return typeof parsed === 'object' && parsed !== null && 'version' in parsed
    ? String(parsed.version)
    : 'unknown'
}
