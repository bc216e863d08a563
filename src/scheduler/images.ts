/**
 * The names of images, as the journal tells them. Nothing is decided by them: a derivation that names one
 * was given its tree when it was submitted, so that a name may change while jobs run.
 */
import type { Fact } from '../wire/facts.ts'
import { IMAGES_MAX, type NamedImage } from '../wire/images.ts'

export type ImageFact = Extract<Fact, { type: 'image-set' | 'image-removed' }>

export class Images {
  readonly #byName = new Map<string, NamedImage>()

  evolve(fact: ImageFact): void {
    if (fact.type === 'image-removed') {
      this.#byName.delete(fact.name)
      return
    }
    if (this.#byName.size < IMAGES_MAX || this.#byName.has(fact.name))
      this.#byName.set(fact.name, fact)
  }

  /** Whether replaying without the fact would leave something out. */
  needs(fact: ImageFact): boolean {
    if (fact.type === 'image-removed') return false
    const now = this.#byName.get(fact.name)
    return now?.version === fact.version && now.digest === fact.digest
  }

  get size(): number {
    return this.#byName.size
  }
  find(name: string): NamedImage | undefined {
    return this.#byName.get(name)
  }
  /** By name. */
  list(): NamedImage[] {
    return [...this.#byName.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1))
  }
}
