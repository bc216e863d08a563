/** What the main thread and a file worker say to each other. Both run the same code: nothing is parsed. */
import { isErrorCode, MeshError } from '../../base/errors.ts'
import type { Input, JobName, Part, Result, Sent } from './jobs.ts'

/** `begin` starts a job and asks for its first part, `next` for another; `stop` ends it. */
export interface Begin<N extends JobName = JobName> {
  readonly kind: 'begin'
  readonly id: number
  readonly name: N
  readonly input: Input<N>
}
export type Order =
  | Begin
  | { readonly kind: 'next'; readonly id: number; readonly sent: Sent<JobName> }
  | { readonly kind: 'stop'; readonly id: number }

export type Step<N extends JobName> =
  | { readonly kind: 'part'; readonly part: Part<N> }
  | { readonly kind: 'result'; readonly result: Result<N> }
export type Answer<N extends JobName> =
  | Step<N>
  | { readonly kind: 'failed'; readonly failure: Failure }
  | { readonly kind: 'stopped' }

/** Those of one job come in the order of the orders that they answer. */
export interface Report<N extends JobName = JobName> {
  readonly id: number
  readonly answer: Answer<N>
}

/** An error between threads: structured clones lose the code of a system call and the class of ours. */
export interface Failure {
  readonly message: string
  readonly code?: string
  readonly where?: string
  readonly hints?: readonly string[]
}

export function failureOf(error: unknown): Failure {
  if (!(error instanceof Error)) return { message: String(error) }
  const { message } = error
  if (error instanceof MeshError) {
    const { code, where, hints } = error
    return { message, code, hints, ...(where === undefined ? {} : { where }) }
  }
  return 'code' in error
    ? { message, code: String(error.code) }
    : { message: error.stack ?? message }
}

export function errorOf({ message, code, where, hints = [] }: Failure): Error {
  if (code === undefined) return new Error(message)
  if (isErrorCode(code))
    return new MeshError(code, message, { hints, ...(where === undefined ? {} : { where }) })
  return Object.assign(new Error(message), { code })
}

/** What a value gives away when it is sent. */
export function givenAway(value: unknown): ArrayBuffer[] {
  return typeof value === 'object' &&
    value !== null &&
    'buffer' in value &&
    value.buffer instanceof ArrayBuffer
    ? [value.buffer]
    : []
}
