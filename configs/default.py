"""Every field of a run, with its default. An experiment is a file that changes some of them.

A config file defines `get_config()`, which starts from this one:

  from configs import default

  def get_config():
    config = default.get_config()
    config.model.name = 'resnet34'
    return config

`model`, `optimizer`, `schedule` and `proxy.model` hold a `name` and the arguments of the thing
named; further arguments may be added (`config.schedule.warmup_epochs = 5`), and so they may to
`data.options`. An argument set to None means the named thing's own default. All other fields are
fixed, and a misspelt one is refused.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()

  # Seeds: of initialisation, order, augmentation and dropout. `num_seeds` independent runs
  # (seed, seed + 1, ...) train together in one program and are reported one by one and as a mean.
  config.seed = 0
  config.num_seeds = 1

  config.num_epochs = 10
  config.last_epoch = 1.0  # the part of the last epoch that is trained: 9.9 epochs are 10 and 0.9
  config.batch_size = 128  # examples in a step, over all devices and processes
  config.eval_batch_size = 1000  # likewise; any size gives the same figures

  # 'float32', 'bfloat16' (computation only: parameters and statistics stay float32) or 'auto':
  # bfloat16 on accelerators, float32 on CPU.
  config.dtype = "auto"

  config.model = ml_collections.ConfigDict()
  config.model.name = "resnet18"
  config.model.sync_bn = True  # batch statistics over all devices, so their number has no effect
  # Weights to start from: a run folder's selected ones, or VGG-16's of ImageNet out of a file or
  # (for 'timm') downloaded; '' for none. optimizer.freeze names those that then stay as they are.
  config.model.pretrained = ""

  config.data = ml_collections.ConfigDict()
  config.data.name = "cifar10"
  config.data.dir = ""  # TFDS directory; '' means $TFDS_DATA_DIR or ~/tensorflow_datasets
  config.data.source = ""  # folder or archive to prepare from; '' tries the known sources in turn
  # Arguments of the data set named, such as size=150, per_class=2000 for photos.
  config.data.options = ml_collections.ConfigDict()
  config.data.fallback = ""  # data set to train on when `name` cannot be had; '' means none
  # Validation examples out of the training set: a fraction or a count (seeded, stratified), 0 for
  # none, 'batch_1' (the first official file), or 'test', which selects on the test set and is
  # marked so in every result.
  config.data.validation = ml_collections.FieldReference(0.1, field_type=object)
  config.data.split_seed = 0  # of the validation split; apart from `seed`, so seeds share a split
  config.data.train_examples = 0  # train on this many, stratified; 0 means all
  config.data.epoch_examples = 0  # repeat a small set until an epoch has at least this many
  # Train on one official file after another, each for its share of the epochs, as report 002 does.
  config.data.file_by_file = False
  config.data.normalize = "standardize"  # or 'unit': pixels / 255
  # Training and test images together live on each device if they fit; larger sets are streamed.
  config.data.resident_bytes = 2 * 1024**3
  config.data.workers = 0  # processes that read ahead when streaming; 0 means threads

  # Transforms of training images, in order, as augment.parse reads them.
  config.augment = ""

  config.loss = ml_collections.ConfigDict()
  config.loss.label_smoothing = 0.0
  # ((pattern, coefficient), ...): adds coefficient * sum(w ** 2) for each parameter whose path
  # matches the pattern first, as Keras' kernel_regularizer does. PyTorch's SGD(weight_decay=d) is
  # (('', d / 2),). Decoupled decay is optimizer.weight_decay.
  config.loss.l2 = ()

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 0.0  # decoupled: w -= learning_rate * weight_decay * w
  config.optimizer.freeze = ()  # patterns of the paths of parameters that stay as they are
  # ((pattern, number), ...), read as those of loss.l2: the learning rate is multiplied by it, or
  # the parameter stays as it is after so many epochs.
  config.optimizer.lr_multipliers = ()
  config.optimizer.freeze_after = ()
  config.optimizer.clip_norm = 0.0  # largest global gradient norm; 0 means no clipping

  config.schedule = ml_collections.ConfigDict()
  config.schedule.name = "constant"

  # Exponential moving average of weights and statistics, evaluated in their stead; 0 means none.
  config.ema_decay = 0.0

  # Lookahead: every so many steps weights and statistics go back towards a slow copy of themselves,
  # which follows: both become d * slow + (1 - d) * fast, d = decay * (part of the run) ** power.
  # The run ends with the slow ones. 0 means none.
  config.lookahead = ml_collections.ConfigDict()
  config.lookahead.every = 0
  config.lookahead.decay = 0.5
  config.lookahead.power = 0.0

  # Train on the `keep` examples of each batch that a proxy network finds hardest; 0 means on all.
  # The proxy, `model`, learns from the same ones at every so many steps; see proxy.py.
  config.proxy = ml_collections.ConfigDict()
  config.proxy.keep = 0
  config.proxy.learn_every = 1
  config.proxy.model = ml_collections.ConfigDict({"name": "airbench94"})
  config.proxy.freeze = ()  # further to optimizer.freeze: the proxy's parameters that stay

  # Reduce the learning rate when the monitored metric stops improving; monitor '' means off.
  config.plateau = ml_collections.ConfigDict()
  config.plateau.monitor = ""
  config.plateau.mode = "min"
  config.plateau.factor = 0.1
  config.plateau.patience = 10  # epochs
  config.plateau.min_delta = 1e-4
  config.plateau.cooldown = 0  # epochs
  config.plateau.min_lr = 0.0

  # Stop when the monitored metric stops improving; monitor '' means off.
  config.early_stopping = ml_collections.ConfigDict()
  config.early_stopping.monitor = ""
  config.early_stopping.mode = "min"
  config.early_stopping.patience = 10  # epochs
  config.early_stopping.min_delta = 0.0

  # End the run if an epoch's training loss is more than `factor` times the median of the last
  # `epochs` before it; 0 means never. With several seeds it goes by their mean.
  config.stop_on_spike = ml_collections.ConfigDict()
  config.stop_on_spike.factor = 0.0
  config.stop_on_spike.epochs = 5

  # The epoch whose weights are kept as `best` and tested at the end; monitor '' means the last.
  config.select = ml_collections.ConfigDict()
  config.select.monitor = "val_accuracy"
  config.select.mode = "max"

  config.evaluate_train = False  # also measure the selected weights on the training examples

  # Test-time augmentation: also test the selected weights on several views of each image, as tta.py
  # names them ('flip', 'multicrop', ...); '' for none.
  config.tta = ""

  config.checkpoint_every = 1  # epochs; the last is always written

  # Steps in one compiled program: 0 means an epoch on accelerators and one on CPU, where XLA runs
  # convolutions inside a loop about 100 times slower.
  config.steps_per_dispatch = 0

  return config
