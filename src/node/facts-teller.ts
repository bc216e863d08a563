/**
 * Facts of a machine are told once and again when they change, not in each message: they are for people, and
 * a root hears of ten thousand nodes every few seconds. One per connection. Pure.
 */
import type { Fact } from '../wire/machine-fact.ts'

export class FactsTeller {
  /** What was told last, and with which message. */
  #told = { text: '', seq: 0 }
  #isHeard = false

  /** What the message with this number is to say of them; undefined where the other side knows. */
  next(facts: readonly Fact[] | undefined, seq: number): Fact[] | undefined {
    if (facts === undefined) return undefined
    const text = JSON.stringify(facts)
    if (text === this.#told.text && this.#isHeard) return undefined
    if (text !== this.#told.text) this.#told = { text, seq }
    this.#isHeard = false
    return [...facts]
  }

  /** The other side has taken in all messages up to this one. */
  heard(ackSeq: number): void {
    if (this.#told.seq > 0 && ackSeq >= this.#told.seq) this.#isHeard = true
  }
}
