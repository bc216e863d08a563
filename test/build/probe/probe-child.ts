/** Prints what a process finds out that is held back in some way; systems.test.ts starts it. */
import { probeAbilities } from '../../../src/build/probe/abilities.ts'
import { probeAllSystems } from '../../../src/build/probe/systems.ts'

const { namespaces } = await probeAbilities()
process.stdout.write(JSON.stringify({ systems: await probeAllSystems(), user: namespaces.user }))
