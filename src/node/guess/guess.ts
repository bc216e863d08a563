/** What `mesh-node guess-env` has found out, before it is told. */
import type { CustomFacts } from '../../build/probe/custom-facts.ts'
import type { MachineFacts } from '../../build/probe/machine-facts.ts'
import type { Declared, Offered } from '../../build/probe/offered.ts'

/** All that is told of one machine. */
export interface Guess {
  readonly facts: MachineFacts
  /** Of the configuration: what it adds and holds back, and programs that tell facts. */
  readonly declared: Pick<Declared, 'features'> & { readonly factPaths: readonly string[] }
  readonly custom: CustomFacts
  readonly offered: Offered
}
