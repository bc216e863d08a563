/** Which nodes an operator means: a name, a glob, a peer id, or what a node is and has. */
import { MeshError } from '../base/errors.ts'
import { matchesGlob } from '../base/glob.ts'
import type { NodeEntry } from './model.ts'

const KEYS = ['name', 'peer', 'role', 'system', 'feature', 'label'] as const
type Key = (typeof KEYS)[number]
/** All peer ids of nodes begin so; names are not mistaken for them. */
const PEER_HEAD = '12D3KooW'

/** All terms have to hold. */
export type Selector = readonly { readonly key: Key; readonly pattern: string }[]

/** What of a node is looked at. */
type Selected = Pick<NodeEntry, 'peerId' | 'record' | 'environments'>

/** Throws MESH0002 for what has no meaning. */
export function parseSelector(text: string): Selector {
  return text.split(',').map((part) => {
    const term = termOf(part.trim())
    if (term !== undefined) return term
    throw new MeshError('MESH0002', `"${part.trim()}" of "${text}" selects no nodes`, {
      hints: [`a node's name, a pattern such as "ci-*", or KEY=VALUE with ${KEYS.join(', ')}`],
    })
  })
}

/** What a newer version may have written with keys that are not known here is undefined. */
export function readSelector(text: string): Selector | undefined {
  const terms = text.split(',').map((part) => termOf(part.trim()))
  return terms.every((term) => term !== undefined) ? terms : undefined
}

function termOf(term: string): Selector[number] | undefined {
  const at = term.indexOf('=')
  const key = at === -1 ? nameOrPeer(term) : term.slice(0, at).trim()
  const pattern = term.slice(at + 1).trim()
  return isKey(key) && pattern !== '' ? { key, pattern } : undefined
}

const nameOrPeer = (term: string): Key => (term.startsWith(PEER_HEAD) ? 'peer' : 'name')

function isKey(text: string): text is Key {
  return KEYS.some((key) => key === text)
}

export function isSelected(selector: Selector, node: Selected): boolean {
  return selector.every(({ key, pattern }) => {
    switch (key) {
      case 'name':
        return matchesGlob(pattern, node.record.name)
      case 'peer':
        return node.peerId.startsWith(pattern)
      case 'role':
        return node.record.roles.some((role) => matchesGlob(pattern, role))
      case 'system':
        return node.environments.some(({ system }) => matchesGlob(pattern, system))
      case 'feature':
        return node.environments.some(({ features }) =>
          features.some((feature) => matchesGlob(pattern, feature)),
        )
      case 'label':
        return node.environments.some(({ label }) => matchesGlob(pattern, label))
    }
  })
}
