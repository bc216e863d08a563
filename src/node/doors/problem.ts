/** Errors as the API tells them: RFC 9457 problem documents with a MESH code. */
import { ERRORS, EXIT, MeshError, messageOf, type ErrorCode } from '../../base/errors.ts'
import type { Problem } from '../../wire/api.ts'
import type { ApiAnswer } from '../../wire/work-messages.ts'

export function problemOf(error: unknown): Problem {
  if (!(error instanceof MeshError)) {
    return {
      status: 500,
      code: 'MESH0001',
      title: ERRORS.MESH0001.title,
      detail: messageOf(error),
      hints: [],
    }
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

/** HTTP statuses of codes that are not plainly the client's (400) or the server's (500) fault. */
const STATUS: Partial<Record<ErrorCode, number>> = {
  MESH0108: 503,
  MESH0120: 503,
  MESH0123: 403,
  MESH0303: 429,
  MESH0501: 404,
  MESH0503: 507,
  MESH0601: 404,
  MESH0603: 403,
  MESH0604: 409,
}

function statusOf(error: MeshError): number {
  return STATUS[error.code] ?? (ERRORS[error.code].exit === EXIT.usage ? 400 : 500)
}
