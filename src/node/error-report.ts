/** What ended a command, as it is told: to a person, and to a program that asked for JSON. */
import { hasCode, isDiskFull, MeshError, messageOf } from '../base/errors.ts'

/** An error as a person reads it, and the exit code that goes with it. */
export function reportOf(error: unknown): { readonly text: string; readonly exit: number } {
  const known = asMeshError(error)
  const { code, exit, where, hints } = known
  const [first = '', ...rest] = `${where === undefined ? '' : `${where}: `}${known.message}`.split(
    '\n',
  )
  const lines = [
    `error[${code}]: ${first}`,
    ...rest.map((line) => `  ${line}`),
    ...hints.map((hint) => `  help: ${hint}`),
  ]
  return { text: `${lines.join('\n')}\n`, exit }
}

/** The same for programs: one line. */
export function jsonReportOf(error: unknown): string {
  const { code, message, where, hints } = asMeshError(error)
  return `${JSON.stringify({ error: { code, message, ...(where === undefined ? {} : { where }), hints } })}\n`
}

function asMeshError(error: unknown): MeshError {
  if (error instanceof MeshError) return error
  const message = messageOf(error)
  if (isDiskFull(error)) return new MeshError('MESH0503', message, { cause: error })
  if (hasCode(error, 'EADDRINUSE')) return new MeshError('MESH0103', message, { cause: error })
  if (hasCode(error, 'EADDRNOTAVAIL', 'EACCES', 'EPERM', 'EROFS'))
    return new MeshError('MESH0104', message, { cause: error })
  const stack = error instanceof Error ? (error.stack ?? message) : message
  return new MeshError('MESH0001', stack, { cause: error })
}
