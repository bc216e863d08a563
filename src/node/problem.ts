/** Errors as the API tells them: RFC 9457 problem documents with a MESH code. */
import { ERRORS, MeshError, messageOf } from '../base/errors.ts'
import type { Problem } from '../wire/api.ts'
import type { ApiAnswer } from '../wire/work-messages.ts'

export function problemOf(error: unknown): Problem {
  if (!(error instanceof MeshError)) {
    return { status: 500, code: 'MESH0001', title: ERRORS.MESH0001.title, detail: messageOf(error), hints: [] }
  }
  return {
    status: statusOf(error),
    code: error.code,
    title: ERRORS[error.code].title,
    detail: error.message,
    ...(error.where === undefined ? {} : { where: error.where }),
    hints: [...error.hints],
  }
}

export function problemAnswer(error: unknown): ApiAnswer {
  const problem = problemOf(error)
  return { status: problem.status, body: JSON.stringify(problem) }
}

function statusOf(error: MeshError): number {
  switch (error.code) {
    case 'MESH0601':
    case 'MESH0501':
      return 404
    case 'MESH0603':
    case 'MESH0123':
      return 403
    case 'MESH0303':
      return 429
    case 'MESH0120':
    case 'MESH0108':
      return 503
    case 'MESH0503':
      return 507
    default:
      return ERRORS[error.code].exit === 2 ? 400 : 500
  }
}
