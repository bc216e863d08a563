/** How an error reaches a person, or a script under --json; and the exit code that goes with it. */
import { EXIT, hasCode, isDiskFull, MeshError, messageOf } from '../base/errors.ts'
import { paint, printable, type Style } from './text/style.ts'

/** A code of a newer daemon that this version does not know: shown as it came. */
export class ForeignError extends Error {
  override readonly name = 'ForeignError'
  readonly code: string
  readonly where: string | undefined
  readonly hints: readonly string[]
  readonly exit: number

  constructor(
    code: string,
    message: string,
    options: {
      readonly where: string | undefined
      readonly hints: readonly string[]
      readonly exit: number
    },
  ) {
    super(message)
    this.code = code
    this.where = options.where
    this.hints = options.hints
    this.exit = options.exit
  }
}

export interface ErrorReport {
  readonly code: string
  readonly message: string
  readonly where?: string
  readonly hints: readonly string[]
  readonly exit: number
}

export function reportOf(error: unknown): ErrorReport {
  if (error instanceof MeshError || error instanceof ForeignError) {
    const { code, message, where, hints, exit } = error
    return { code, message, ...(where === undefined ? {} : { where }), hints, exit }
  }
  if (isDiskFull(error))
    return { code: 'MESH0503', message: messageOf(error), hints: [], exit: EXIT.noSpace }
  if (
    hasCode(
      error,
      'ENOENT',
      'EACCES',
      'EPERM',
      'ENOTDIR',
      'EISDIR',
      'EROFS',
      'EMFILE',
      'ENAMETOOLONG',
      'ELOOP',
    )
  )
    return { code: 'MESH0002', message: messageOf(error), hints: [], exit: EXIT.usage }
  return {
    code: 'MESH0001',
    message: error instanceof Error ? (error.stack ?? error.message) : String(error),
    hints: [],
    exit: EXIT.internal,
  }
}

/** What goes to stderr. */
export function errorLines(report: ErrorReport, style: Style): string[] {
  const where = report.where === undefined ? '' : `${printable(report.where)}: `
  const [first = '', ...rest] = `${where}${printable(report.message)}`.split('\n')
  return [
    `${paint(style, 'bad', `error[${printable(report.code)}]`)}: ${first}`,
    ...rest.map((line) => `  ${line}`),
    ...report.hints.map((hint) => `  ${paint(style, 'strong', 'help')}: ${printable(hint)}`),
  ]
}

/** What goes to stdout under --json. */
export function errorJson(report: ErrorReport): { error: Omit<ErrorReport, 'exit'> } {
  const { exit: _, ...error } = report
  return { error }
}
