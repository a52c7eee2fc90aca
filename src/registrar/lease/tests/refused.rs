//! Keys that the role may not write.

use super::world::World;
use super::{Action, Conflict, Input, Standing, Trouble};

#[test]
fn what_stood_is_updated_also_where_something_of_it_was_refused() {
    let mut world = World::new(3);
    let at = |keys: &[u8]| super::Wanted {
        records: keys.iter().map(|key| super::record(*key, 1)).collect(),
        conflict: Conflict::TakeOver,
        id: None,
        paused: false,
    };
    world.tell(Input::Wanted { id: 1, wanted: at(&[50, 51]) });
    for _ in 0..3 {
        let Some(action) = world.begin() else { continue };
        let is_refused = matches!(&action, Action::Put { record, .. } if record.key == [51]);
        let input = if is_refused { Input::Failed(Trouble::Permanent) } else { world.etcd.serve(world.now, &action) };
        world.machine.on(world.now, &action, input);
    }
    assert_eq!(world.machine.standing(world.now, 1), Standing::Pending);
    world.tell(Input::Updated { id: 1, wanted: at(&[50]) });
    assert_eq!(world.machine.standing(world.now, 1), Standing::Registered);
    world.tell(Input::Updated { id: 1, wanted: at(&[51]) });
    assert_eq!(world.machine.standing(world.now, 1), Standing::Updating);
}
