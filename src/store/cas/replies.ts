/** Questions of one kind that wait for their answers. */
import { orAborted } from '../../base/or-aborted.ts'

export class Replies<T> {
  readonly #waiting = new Map<
    number,
    { resolve: (reply: T) => void; reject: (error: unknown) => void }
  >()

  expect(id: number, signal: AbortSignal): Promise<T> {
    const answer = new Promise<T>((resolve, reject) => this.#waiting.set(id, { resolve, reject }))
    answer.catch(() => undefined) // whoever asked may have been kept from waiting
    return orAborted(answer, signal)
  }
  forget(id: number): void {
    this.#waiting.delete(id)
  }
  settle(id: number, reply: T): void {
    this.#waiting.get(id)?.resolve(reply)
  }
  fail(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error)
  }
}
